// An application's process that publishes 20 events in one transaction, and then waits to be
// killed: before COMMIT, or after it.
import { connect } from "../../src/database/connect.ts";

const sql = connect(process.env["DATABASE_URL"], { max: 1 });
const forEver = () => new Promise<never>(() => setInterval(() => {}, 1000));

await sql.begin(async (transaction) => {
  await transaction`select application.publish('user_1', 20, false)`;
  if (process.env["WAIT"] === "before COMMIT") {
    console.log("before COMMIT");
    await forEver();
  }
});
console.log("after COMMIT");
await forEver();
