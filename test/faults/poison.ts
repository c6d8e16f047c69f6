// Goes into a worker by `node --import`: a request to /poisoned ends its process, once others
// have been written as well, or none have come for two seconds. Nothing in src/ knows of it.
import { Socket } from "node:net";

const OTHERS = 9;
let others = 0;
let poisoned = false;

const die = () => process.kill(process.pid, "SIGKILL");

/** Whatever a socket of this process is given to write. */
const seen = (text: unknown) => {
  if (typeof text !== "string" || !text.startsWith("POST ")) return;
  if (text.startsWith("POST /poisoned ")) {
    poisoned = true;
    setTimeout(die, 2000);
  } else {
    others += 1;
  }
  if (poisoned && others >= OTHERS) die();
};
const { write } = Socket.prototype;
Socket.prototype.write = function (this: Socket, ...args: Parameters<typeof write>) {
  const sent = write.apply(this, args);
  seen(args[0]);
  return sent;
} as typeof write;
