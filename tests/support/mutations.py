"""Answers of Claude, changed in the ways in which a new release of its API, or a gateway before it, may change them.

All of it by the dice of the caller, so that one seed gives one answer. What an answer means is never computed here.
"""

from __future__ import annotations

import copy
import itertools
import json
import random
from collections.abc import Callable
from typing import Any

Data = dict[str, Any]  # one event's JSON
Answer = list[Data]

FIELDS = {"text_delta": "text", "thinking_delta": "thinking", "input_json_delta": "partial_json"}
# What a field that is not known yet may hold.
NEW: list[Any] = [None, 1, "x", "\ud83d", [], {"a": None}, [1.5, {"b": "é"}], float("nan"), float("inf"), 2**70]
_MOST_DELTAS = 5  # of a block, so that one example is quick


def shortened(answer: Answer) -> Answer:
    """A recorded answer with the later deltas of each block in one, up to its end."""
    short: Answer = []
    seen: dict[tuple[int, str], int] = {}
    last: dict[tuple[int, str], Data] = {}
    for data in copy.deepcopy(answer):
        delta = data.get("delta") or {}
        field = FIELDS.get(delta.get("type", ""))
        if field is None or set(delta) != {"type", field}:
            short.append(data)
        else:
            key = data["index"], field
            seen[key] = seen.get(key, 0) + 1
            if seen[key] > _MOST_DELTAS:
                last[key]["delta"][field] += delta[field]
                continue
            last[key] = data
            short.append(data)
        if data["type"] == "message_stop":
            break
    return short


def _deltas(answer: Answer, index: int) -> list[Data]:
    return [
        data
        for data in answer
        if data["type"] == "content_block_delta" and data["index"] == index and data["delta"]["type"] in FIELDS
    ]


def _starts(answer: Answer) -> list[Data]:
    return [data for data in answer if data["type"] == "content_block_start"]


def new_fields(answer: Answer, dice: random.Random) -> None:
    """Fields that nobody knows, at each level."""

    def add(value: Any) -> None:
        if isinstance(value, dict):
            for inner in list(value.values()):
                add(inner)
            if dice.random() < 0.3:
                value[f"brand_new_{dice.randrange(3)}"] = dice.choice(NEW)
        elif isinstance(value, list):
            for inner in value:
                add(inner)

    for data in answer:
        add(data)


def nulls(answer: Answer, dice: random.Random) -> None:
    """Null where the API allows for it, and fields left out that may be."""
    for data in answer:
        for holder in (data, data.get("message"), data.get("usage"), data.get("delta"), data.get("content_block")):
            for name in ("stop_sequence", "citations", "cache_read_input_tokens", "cache_creation_input_tokens",
                         "server_tool_use", "container", "context_management", "stop_details", "caller"):  # fmt: skip
                if isinstance(holder, dict) and name in holder and dice.random() < 0.5:
                    if dice.random() < 0.5:
                        holder[name] = None
                    elif name not in ("stop_sequence", "stop_details"):
                        del holder[name]


def emoji(answer: Answer, dice: random.Random) -> None:
    """Characters outside the basic plane in every text."""
    for data in answer:
        delta = data.get("delta", {})
        if delta.get("type") in ("text_delta", "thinking_delta"):
            field = FIELDS[delta["type"]]
            at = dice.randint(0, len(delta[field]))
            delta[field] = delta[field][:at] + dice.choice(["😀", "👩‍🚀", "𝒳y", "é", "漢字"]) + delta[field][at:]


def standing_text(answer: Answer, dice: random.Random) -> None:
    """The first deltas of a block on its start."""
    for start in _starts(answer):
        kind = start["content_block"].get("type")
        deltas = _deltas(answer, start["index"])
        if kind not in ("text", "thinking") or any(kind not in data["delta"] for data in deltas):
            continue
        for data in deltas[: dice.randint(0, len(deltas))]:
            start["content_block"][kind] = (start["content_block"].get(kind) or "") + data["delta"][kind]
            answer[:] = [other for other in answer if other is not data]


def standing_input(answer: Answer, dice: random.Random) -> None:
    """A tool's whole input on its block's start, with no piece after it or with all of them."""
    for start in _starts(answer):
        if not str(start["content_block"].get("type")).endswith("tool_use") or dice.random() < 0.4:
            continue
        pieces = [data for data in _deltas(answer, start["index"]) if data["delta"]["type"] == "input_json_delta"]
        if dice.random() < 0.4:
            start["content_block"]["input"] = (
                {"replaced": True} if any(p["delta"]["partial_json"] for p in pieces) else {}
            )
            continue
        try:
            whole = json.loads("".join(data["delta"]["partial_json"] for data in pieces) or "{}")
        except ValueError:  # a recording that was cut
            continue
        start["content_block"]["input"] = whole or start["content_block"].get("input")
        answer[:] = [data for data in answer if all(data is not piece for piece in pieces)]


def split(answer: Answer, dice: random.Random) -> None:
    """Deltas in parts, in the middle of a surrogate pair too; not so for JSON, where the SDKs themselves fail."""
    made: Answer = []
    for data in answer:
        field = FIELDS.get(data.get("delta", {}).get("type", ""))
        if data["type"] != "content_block_delta" or field is None:
            made.append(data)
            continue
        parts = [data["delta"][field]]
        for _ in range(dice.randrange(3)):
            text = parts.pop()
            parts += _halved(text, dice, within=field != "partial_json")
        made += [data | {"delta": data["delta"] | {field: part}} for part in parts]
    answer[:] = made


def _halved(text: str, dice: random.Random, *, within: bool) -> list[str]:
    if not within:
        at = dice.randint(0, len(text))
        return [text[:at], text[at:]]
    units = text.encode("utf-16-le", "surrogatepass")
    high = [at for at in range(2, len(units), 2) if 0xDC <= units[at + 1] <= 0xDF]
    at = dice.choice(high) if high and dice.random() < 0.8 else 2 * dice.randint(0, len(units) // 2)
    return [units[:at].decode("utf-16-le", "surrogatepass"), units[at:].decode("utf-16-le", "surrogatepass")]


def interleaved(answer: Answer, dice: random.Random) -> None:
    """Two neighbouring blocks of different kinds at once, each in its own order, begun in their own."""
    starts, mixed = _starts(answer), list[Data]()
    for first, second in itertools.pairwise(starts):
        kinds = {first["content_block"].get("type"), second["content_block"].get("type")}
        # Of three at once, two may be text, which the plain protocol tells in the order in which it comes.
        if len(kinds) < 2 or any(first is other for other in mixed) or dice.random() < 0.5:
            continue
        of = [[data for data in answer if data.get("index") == start["index"]] for start in (first, second)]
        begin = min(at for at, data in enumerate(answer) if any(data is mine for mine in of[0]))
        rest = [data for data in answer if not any(data is mine for pair in of for mine in pair)]
        mixed, queues = [of[0].pop(0), of[1].pop(0)], of
        while any(queues):
            mixed.append(dice.choice([queue for queue in queues if queue]).pop(0))
        answer[:] = rest[:begin] + mixed + rest[begin:]


def strangers(answer: Answer, dice: random.Random) -> None:
    """Events, blocks and deltas of kinds that nobody knows, and pings."""
    last = max([start["index"] for start in _starts(answer)], default=-1) + 1
    ends = [at for at, data in enumerate(answer) if data["type"] == "message_delta"]
    if ends:
        block = {"type": "brand_new_block", "text": "not to be shown", "input": {"a": 1}}
        odd = {"type": "brand_new_delta", "text": "not to be shown"}
        answer[ends[0] : ends[0]] = [
            {"type": "content_block_start", "index": last, "content_block": block},
            {"type": "content_block_delta", "index": last, "delta": odd},
            {"type": "content_block_stop", "index": last},
        ]
    for _ in range(3):
        at = dice.randint(1, len(answer)) if answer[-1]["type"] != "message_stop" else dice.randint(1, len(answer) - 1)
        answer.insert(
            at, dice.choice([{"type": "ping"}, {"type": "ping", "cost": 1}, {"type": "brand_new", "text": "no"}])
        )


MUTATIONS: dict[str, Callable[[Answer, random.Random], None]] = {
    "emoji": emoji,
    "standing text": standing_text,
    "standing input": standing_input,
    "split": split,
    "interleaved": interleaved,
    "strangers": strangers,
    "nulls": nulls,
    "new fields": new_fields,
}
# What the wire may do to any answer: event lines left out or wrong, line ends, JSON in several lines, escapes.
WIRES = ("no event lines", "wrong event lines", "crlf", "indented", "escaped")


def mutated(answer: Answer, names: set[str], dice: random.Random) -> Answer:
    """The answer after the mutations of these names, in the order in which they can follow each other."""
    made = copy.deepcopy(answer)
    for name, mutation in MUTATIONS.items():
        if name in names:
            mutation(made, dice)
    return made


def payloads(answer: Answer, names: set[str], dice: random.Random) -> list[bytes]:
    """Each event's JSON, as bytes."""
    made = []
    for data in answer:
        indent = 1 if "indented" in names and dice.random() < 0.2 else None
        escaped = "escaped" in names and dice.random() < 0.5
        try:
            made.append(json.dumps(data, ensure_ascii=escaped, indent=indent).encode())
        except UnicodeEncodeError:  # half of a surrogate pair
            made.append(json.dumps(data, indent=indent).encode())
    return made


def framed(answer: Answer, raws: list[bytes], names: set[str], dice: random.Random) -> bytes:
    """The events of these payloads, as they come on the wire."""
    lines = b""
    for data, raw in zip(answer, raws, strict=True):
        name: str | None = data["type"]
        if "wrong event lines" in names and dice.random() < 0.3:
            name = dice.choice(["message", "ping", "error", "content_block_delta", "message_stop", "brand_new"])
        if "no event lines" in names and dice.random() < 0.8:
            name = None
        lines += (f"event: {name}\n".encode() if name else b"") + b"data: " + raw.replace(b"\n", b"\ndata: ") + b"\n\n"
    return lines.replace(b"\n", b"\r\n") if "crlf" in names else lines


def chunked(stream: bytes, dice: random.Random) -> list[bytes]:
    """The stream in reads: a few anywhere, or one a byte."""
    if dice.random() < 0.02:
        return [bytes([byte]) for byte in stream]
    edges = sorted(dice.randrange(len(stream) + 1) for _ in range(dice.randrange(12)))
    if dice.random() < 0.3:  # where events end, as reads mostly do
        edges = [at + 2 for at in range(len(stream)) if stream[at : at + 2] == b"\n\n" and dice.random() < 0.4]
    return [stream[start:end] for start, end in zip([0, *edges], [*edges, len(stream)], strict=True)]
