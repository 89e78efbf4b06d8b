// Node's `ws`, read with Node's own async iterator over events: node node_stream.mjs URL TOKENS, `ws` beside it.
// A hand-made async generator over a queue took a tenth more CPU time.
import { on, once } from "node:events";
import WebSocket from "ws";

const [url, count] = [process.argv[2], Number(process.argv[3])];
const ws = new WebSocket(url, { perMessageDeflate: false });

async function read(tokens) {
  const id = `gen_${tokens.toString(16).padStart(32, "0")}`;
  const messages = on(ws, "message");
  ws.send(JSON.stringify({ type: "generate", id, prompt: "x", model: `tokens:${tokens}` }));
  let seen = 0;
  for await (const [data] of messages) {
    const message = JSON.parse(data);
    if (message.type === "stream_token") seen += message.token.length > 0;
    else if (message.type === "stream_end") break;
  }
  if (seen !== tokens) throw new Error(`${seen} tokens instead of ${tokens}`);
}

await once(ws, "message"); // the challenge
ws.send('{"type":"authenticate","clientId":"node","signature":"none"}');
await once(ws, "message"); // the verdict
await read(2000);
const cpu = process.cpuUsage();
const start = process.hrtime.bigint();
await read(count);
const seconds = Number(process.hrtime.bigint() - start) / 1e9;
const used = process.cpuUsage(cpu);
console.log(JSON.stringify({ rate: count / seconds, cpu: (used.user + used.system) / count }));
ws.close();
