// Reads a file by a thread of the pool while two workers count and a timer fires, and tells what came of all of it.
const { Worker, isMainThread, parentPort } = require("node:worker_threads");
const { readFile } = require("node:fs");
const { execFileSync } = require("node:child_process");

if (isMainThread) {
  const counts = [0, 0];
  let ticks = 0;
  const workers = counts.map((_, at) => new Worker(__filename).on("message", () => counts[at]++));
  const timer = setInterval(() => ticks++, 10);
  const wait = (text) => {
    if (ticks < 10 || counts.some((count) => count < 10)) return setTimeout(wait, 10, text);
    clearInterval(timer);
    workers.forEach((worker) => worker.terminate());
    let code = 0;
    try {
      execFileSync("/bin/sh", ["-c", "exit 3"]);
    } catch (error) {
      code = error.status;
    }
    console.log(`read ${text.trim()}; workers went on; exit ${code}`);
  };
  readFile(process.argv[2], "utf8", (error, text) => wait(error ? error.code : text));
} else {
  setInterval(() => parentPort.postMessage(""), 5);
}
