// As plain_graph.py: model.onnx in onnxruntime for JavaScript, which is given as `ort`.

// graph: path or bytes of model.onnx; config: config.json's fields; options: of the session.
export async function open(ort, graph, config, options) {
  const session = await ort.InferenceSession.create(graph, options);
  const parts = session.inputNames.filter((name) => name.startsWith("past_key_values."));
  const entries = session.inputMetadata;
  const entry = Array.isArray(entries) ? entries.find((one) => one.name === parts[0]) : entries[parts[0]];
  const type = entry.type;
  const ints = (values, dims) => new ort.Tensor("int64", BigInt64Array.from(values, BigInt), dims);
  let past, tokens;

  const start = (capacity) => {
    const length = type === "int8" ? capacity : 0; // an int8 cache is made as long as the sequence will be
    const dims = [1, config.num_key_value_heads, length, config.head_dim];
    const zeros = () => new (type === "int8" ? Int8Array : Float32Array)(dims.reduce((a, b) => a * b));
    past = Object.fromEntries(parts.map((name) => [name, new ort.Tensor(type, zeros(), dims)]));
    tokens = 0;
  };
  const step = async (ids) => {
    tokens += ids.length;
    const mask = ints(Array(tokens).fill(1), [1, tokens]);
    const outputs = await session.run({ input_ids: ints(ids, [1, ids.length]), attention_mask: mask, ...past });
    past = Object.fromEntries(parts.map((name) => [name, outputs[name.replace("past_key_values", "present")]]));
    return outputs.logits;
  };
  const mostLikely = ({ data, dims }) => {
    const last = data.subarray(data.length - dims[2]);
    return last.reduce((best, value, id) => (value > last[best] ? id : best), 0);
  };
  return {
    version: ort.env.versions.node ?? ort.env.versions.web,
    encode: async () => null,
    logits: async (ids) => {
      start(ids.length);
      return step(ids);
    },
    answer: async (ids, count, stops) => {
      start(ids.length + count);
      const found = [mostLikely(await step(ids))];
      while (found.length < count && !stops.includes(found.at(-1))) found.push(mostLikely(await step(found.slice(-1))));
      return found;
    },
  };
}
