// What went wrong, in words for whoever can mend it.

// Said only where something had come.
const KEPT = "What had come by then is kept above.";
// The service's and the network's own words.
const OURS = {
  authentication_error: ["The key was not accepted", "Enter a key or token of this service, and send again. Whoever runs it hands them out."],
  permission_error: ["This is not allowed", "The access key does not open this."],
  invalid_request_error: ["The request was not accepted", ""],
  request_too_large: ["The request is too large", ""],
  rate_limit_error: ["Too much was asked at once", "A limit of this service was reached. That passes, mostly within a minute; whoever runs it can raise it."],
  budget_exhausted: ["The budget for answers is spent", `${KEPT} Whoever runs this service can raise it.`],
  budget_held: ["The rest of the budget is held for answers that run", "Send again once one of them has ended."],
  budget_unavailable: ["The service cannot see what is left of the budget", "Whoever runs it can mend that: its log has the cause."],
  overloaded_error: ["The service is busy just now", "It takes no new answer until others have ended. That passes, mostly within a minute."],
  api_error: ["The service failed", "Its log has the cause, for whoever runs it."],
  interrupted: ["The connection broke off", `The network between this page and the service failed. ${KEPT}`],
  taken_over: ["Another tab reads this answer now", "It goes on there, from its beginning. This tab keeps what it has."],
  stopped: ["The answer was stopped elsewhere", KEPT],
  expired: ["The answer is no longer kept", "This page was away, or took nothing, for longer than the service waits."],
  not_found_error: ["The answer is no longer kept", "The service does not know it any more."],
  shutdown: ["The service is restarting", `${KEPT} Send again in a moment.`],
  connect_error: ["The service cannot be reached", "Look at this device’s network. If that is well, whoever runs the service can mend it."],
  http_error: ["The service cannot be reached", "Something on the way to it answered instead: whoever runs it can mend that."],
};
export const UNSENDABLE_KEY = "It has a character that no key has. Enter it again, by hand where a copy of it changed a dash or a letter.";
const OPERATOR = "Only whoever runs this service can mend this.";
// Claude's: the same code asks other people to act.
const CLAUDES = {
  authentication_error: ["Claude did not accept the service’s own key", OPERATOR],
  permission_error: ["Claude does not allow this to the service", OPERATOR],
  billing_error: ["The service’s account with Claude cannot pay", OPERATOR],
  not_found_error: ["Claude does not know what was asked for", "Mostly it is the name of the model."],
  invalid_request_error: ["Claude did not accept the request", ""],
  request_too_large: ["The request is too large for Claude", ""],
  rate_limit_error: ["Claude takes no more requests from the service just now", "A limit of its account was reached."],
  overloaded_error: ["Claude is overloaded just now", "This passes, mostly within a minute."],
  timeout_error: ["Claude has gone silent", KEPT],
  upstream_unreachable: ["The service cannot reach Claude", "If this stays, whoever runs the service can mend it."],
  upstream_barred: ["The service cannot reach Claude", OPERATOR],
  upstream_cut: ["Claude’s answer was cut off", KEPT],
};

// The title and the advice for an error of client.js, and whether an access key would help; `kept`: something had come.
export function inWords({ type, source, message }, { kept }) {
  const upstream = source === "upstream";
  const known = upstream ? CLAUDES : OURS;
  const other = [upstream ? "Claude failed" : "The answer failed", ""];
  const [title, all] = Object.hasOwn(known, type) ? known[type] : other;
  const advice = kept ? all : all.replace(KEPT, "").trim();
  if (message === UNSENDABLE_KEY) return { title, advice: message, wantsKey: true };
  return { title, advice, wantsKey: type === "authentication_error" && !upstream };
}
