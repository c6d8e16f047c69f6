#!/usr/bin/env node
// The executable: refuses a Node.js that is too old before anything else is loaded that needs
// a newer one, then runs main.ts.
const WANTED = [22, 19] as const;

const [major = 0, minor = 0] = process.versions.node.split(".").map(Number);
if (major < WANTED[0] || (major === WANTED[0] && minor < WANTED[1])) {
  console.error(
    `ERROR:  webhookpub needs Node.js ${WANTED.join(".")} or newer, this is ${process.versions.node}`,
  );
  process.exitCode = 2;
} else {
  const { main } = await import("./main.ts");
  const code = await main(process.argv.slice(2));
  // Whatever is still open, it is over; but what was printed has to get out.
  process.stdout.write("", () => process.exit(code));
}
