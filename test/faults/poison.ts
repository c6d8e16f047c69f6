// Goes into a worker by `node --import`: a request to /poisoned ends its process, once others
// have been written as well, or none have come for two seconds. Nothing in src/ knows of it.
import { subscribe } from "node:diagnostics_channel";

const OTHERS = 9;
let others = 0;
let poisoned = false;

const die = () => process.kill(process.pid, "SIGKILL");

subscribe("undici:client:sendHeaders", (message) => {
  const { request } = message as { request: { path: string } };
  if (request.path === "/poisoned") {
    poisoned = true;
    setTimeout(die, 2000);
  } else {
    others += 1;
  }
  if (poisoned && others >= OTHERS) die();
});
