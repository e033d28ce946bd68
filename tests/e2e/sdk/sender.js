// Makes the calls of one job with RudderStack's Node SDK and prints, as JSON, what the SDK's error handler was told.
// The job, from standard input: {"url", "writeKey", "gzip", "flushes": [[call, ...], ...]}.

"use strict";

const { readFileSync } = require("node:fs");
const RudderAnalytics = require("@rudderstack/rudder-sdk-node");

async function main() {
  const job = JSON.parse(readFileSync(0, "utf8"));
  const errors = [];
  const client = new RudderAnalytics(job.writeKey, {
    dataPlaneUrl: job.url,
    gzip: job.gzip,
    flushAt: 100,
    errorHandler: (error) => errors.push(error.message),
  });
  for (const calls of job.flushes) {
    const answered = calls.map(
      ({ type, ...call }) => new Promise((resolve) => client[type]({ userId: "backend", ...call }, () => resolve())),
    );
    client.flush();
    // The callbacks of the calls and not flush(): it does not wait for a flush that the SDK has begun by itself.
    await Promise.all(answered);
  }
  console.log(JSON.stringify(errors));
}

main();
