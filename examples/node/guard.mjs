// A caller in JavaScript, by gRPC, with nothing but Node (18 or newer): node examples/node/guard.mjs HOST:PORT PROMPT [RESPONSE]
//   HOST:PORT  of Triton's gRPC endpoint, such as 127.0.0.1:8001
// Prints one JSON line: decision, reason, user, response, pUnsafe, judged. Exit status: 0 allowed, 1 not allowed,
// 3 no verdict (then the line holds kind, field and message). Whatever is not read as `allow` is not allowed.
//
// With packages, take @grpc/grpc-js and the published grpc_service.proto in the place of the two codecs below.
import http2 from "node:http2";
import process from "node:process";

const [address, prompt, response] = process.argv.slice(2);
if (prompt === undefined) {
  console.error("usage: node guard.mjs HOST:PORT PROMPT [RESPONSE]");
  process.exit(2);
}
const SECONDS = 60;

// Protocol buffers: a message is fields; each is a varint or bytes with their length before them.
const varint = (number) => {
  const bytes = [];
  for (; number > 127; number = Math.floor(number / 128)) bytes.push((number % 128) | 128);
  return Buffer.from([...bytes, number]);
};
const field = (number, bytes) => Buffer.concat([varint(number * 8 + 2), varint(bytes.length), bytes]);
const text = (number, value) => field(number, Buffer.from(value, "utf8"));
function* fields(message) {
  let at = 0;
  const read = () => {
    let [value, scale, byte] = [0, 1, 128];
    for (; byte & 128; scale *= 128) value += ((byte = message[at++]) & 127) * scale;
    return value;
  };
  while (at < message.length) {
    const [number, type] = ((key) => [key >> 3, key & 7])(read());
    if (type === 2) {
      const length = read();
      yield [number, message.subarray(at, (at += length))];
    } else if (type === 0) read();
    else at += type === 1 ? 8 : 4;
  }
}

// A tensor is its description (name, type, shape [1, 1]) and, apart, its bytes; a text has its length before it.
const int32 = (value) => { const bytes = Buffer.alloc(4); bytes.writeInt32LE(value); return bytes; };
const bytes = (value) => { const raw = Buffer.from(value, "utf8"); return Buffer.concat([int32(raw.length), raw]); };
const id = `node-${process.pid}`;
const inputs = [
  ["CONTRACT_VERSION", "INT32", int32(1)],
  ["REQUEST_ID", "BYTES", bytes(id)],
  ["PROMPT", "BYTES", bytes(prompt)],
  ["MODE", "BYTES", bytes("verdict")],
  ["DEADLINE_MS", "INT32", int32(SECONDS * 1000)],
];
if (response !== undefined) inputs.push(["RESPONSE", "BYTES", bytes(response)]);
const outputs = ["DECISION", "DECISION_REASON", "USER_SAFETY", "RESPONSE_SAFETY", "P_UNSAFE", "RECORD"];
const request = Buffer.concat([
  text(1, "guard"),
  text(3, id),
  ...inputs.map(([name, type]) => field(5, Buffer.concat([text(1, name), text(2, type), field(3, Buffer.from([1, 1]))]))),
  ...outputs.map((name) => field(6, text(1, name))),
  ...inputs.map(([, , raw]) => field(7, raw)),
]);

// gRPC: one HTTP/2 request whose body is a zero byte, the length and the message; the status comes in the trailers.
function call(method, message) {
  return new Promise((resolve) => {
    const session = http2.connect(`http://${address}`);
    const unreached = (error) => resolve({ status: 14, message: String(error.message), body: Buffer.alloc(0) });
    session.on("error", unreached);
    const stream = session.request({
      ":method": "POST",
      ":path": method,
      "content-type": "application/grpc",
      te: "trailers",
      "grpc-timeout": `${SECONDS + 5}S`,
    });
    const chunks = [];
    let told = {};
    stream.on("response", (headers) => { told = { ...headers }; });
    stream.on("trailers", (trailers) => { told = { ...told, ...trailers }; });
    stream.on("data", (chunk) => chunks.push(chunk));
    stream.on("error", unreached);
    stream.on("end", () => {
      session.close();
      const status = Number(told["grpc-status"] ?? 2);
      resolve({ status, message: decodeURIComponent(told["grpc-message"] ?? ""), body: Buffer.concat(chunks).subarray(5) });
    });
    const length = Buffer.alloc(5);
    length.writeUInt32BE(message.length, 1);
    stream.end(Buffer.concat([length, message]));
  });
}

const reply = await call("/inference.GRPCInferenceService/ModelInfer", request);
let line, status;
if (reply.status !== 0) {
  const marked = /tritonguard:([a-z_]+)(?: field=([A-Za-z0-9_.\[\]-]+))?: ([^\n]*)/.exec(reply.message);
  // An error of gRPC's or Triton's own has no kind: the status decides.
  const kinds = { 3: "invalid_request", 4: "deadline_exceeded", 5: "unavailable", 14: "unavailable" };
  const [, kind, named, message] = marked ?? [null, kinds[reply.status] ?? "internal", null, `status ${reply.status}`];
  line = { kind, field: named ?? null, message };
  status = 3;
} else {
  const all = [...fields(reply.body)];
  const names = all.filter(([number]) => number === 5).map(([, output]) => {
    return [...fields(output)].find(([number]) => number === 1)[1].toString();
  });
  const raw = Object.fromEntries(all.filter(([number]) => number === 6).map(([, value], index) => [names[index], value]));
  const said = (name) => raw[name].subarray(4).toString("utf8");
  const probability = (offset) => ((value) => (Number.isNaN(value) ? null : value))(raw.P_UNSAFE.readFloatLE(offset));
  line = {
    decision: said("DECISION"),
    reason: said("DECISION_REASON"),
    user: said("USER_SAFETY"),
    response: said("RESPONSE_SAFETY"),
    pUnsafe: [probability(0), probability(4)],
    judged: JSON.parse(said("RECORD")).judged,
  };
  status = line.decision === "allow" ? 0 : 1;
}
console.log(JSON.stringify(line));
process.exitCode = status;
