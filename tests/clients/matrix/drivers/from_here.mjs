// Lets a driver import what is installed in the folder that it is run in, wherever the driver itself lies.
import { registerHooks } from "node:module";
import { pathToFileURL } from "node:url";

const here = pathToFileURL(`${process.cwd()}/driver.mjs`).href;
const drivers = new URL(".", import.meta.url).href;

registerHooks({
  resolve(specifier, context, next) {
    const bare = !/^(\.|\/|node:|file:)/.test(specifier);
    const ours = context.parentURL?.startsWith(drivers);
    return next(specifier, bare && ours ? { ...context, parentURL: here } : context);
  },
});
