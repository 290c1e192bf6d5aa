// Runs one file on ONNX Runtime for Node, or on ONNX Runtime Web's WASM: node drive.mjs ENGINE FOLDER MODULES.
// MODULES is the folder with node_modules. Reads and writes what drive.py does.
import fs from "node:fs";
import path from "node:path";
import { pathToFileURL } from "node:url";

const [engine, folder, modules] = process.argv.slice(2);
const entry = { "onnxruntime-node": "dist/index.js", "onnxruntime-web": "dist/ort.node.min.mjs" };
const ARRAYS = {
  float32: Float32Array, int64: BigInt64Array, int32: Int32Array, uint8: Uint8Array, int8: Int8Array,
  bool: Uint8Array, float64: Float64Array, float16: Uint16Array,
};
const ROUNDS = 5;

const read = (name) => JSON.parse(fs.readFileSync(path.join(folder, name)));
const result = { error: null };
try {
  const loaded = await import(pathToFileURL(path.join(modules, "node_modules", engine, entry[engine])));
  const ort = loaded.default ?? loaded;
  if (engine === "onnxruntime-web") ort.env.wasm.numThreads = 1;
  const session = await ort.InferenceSession.create(path.join(folder, "model.onnx"), {
    executionProviders: [engine === "onnxruntime-web" ? "wasm" : "cpu"], intraOpNumThreads: 1, logSeverityLevel: 3,
  });
  const { inputs, outputs } = read("inputs.json");
  const feeds = {};
  for (const { name, dtype, shape, file } of inputs) {
    const bytes = fs.readFileSync(path.join(folder, file));
    const kind = ARRAYS[dtype];
    const data = new kind(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength));
    feeds[name] = new ort.Tensor(dtype, data, shape);
  }
  let found;
  const times = [];
  for (let i = 0; i <= ROUNDS; i++) {
    const begin = performance.now();
    found = await session.run(feeds, outputs);
    times.push(performance.now() - begin);
  }
  const listed = outputs.map((name, i) => {
    const tensor = found[name];
    fs.writeFileSync(path.join(folder, `output_${i}.bin`), Buffer.from(tensor.data.buffer, tensor.data.byteOffset, tensor.data.byteLength));
    return { name, dtype: tensor.type, shape: [...tensor.dims], file: `output_${i}.bin` };
  });
  fs.writeFileSync(path.join(folder, "outputs.json"), JSON.stringify({ outputs: listed }));
  result.ms = Math.min(...times);
} catch (error) {
  result.error = `${error.name ?? "Error"}: ${error.message ?? error}`;
}
fs.writeFileSync(path.join(folder, "result.json"), JSON.stringify(result));
