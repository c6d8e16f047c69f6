// A receiver that takes requests and never answers, and a name server that knows one name and
// is silent about all others. Arguments: the name server's address, the name, its address; the
// receiver alone without them. Prints the receiver's port.
import { createServer } from "node:net";
import { startNameServer } from "../../test/support/name_server.ts";

const [address, name, itsAddress] = process.argv.slice(2);
if (address !== undefined && itsAddress !== undefined) {
  // It goes with the process.
  const goes = { teardown: () => {} };
  await startNameServer(goes, address, (asked) => (asked === name ? [itsAddress] : "no answer"));
}

const server = createServer((socket) => socket.on("error", () => {}).resume());
server.listen({ port: 0, host: "127.0.0.1", backlog: 4096 }, () => {
  const listening = server.address();
  console.log(typeof listening === "object" ? listening?.port : listening);
});
