// The folder in transformers.js, which is given as `library`; `name` is that of the folder below its localModelPath.

export async function open(library, name) {
  library.env.allowRemoteModels = false;
  const tokenizer = await library.AutoTokenizer.from_pretrained(name);
  const model = await library.AutoModelForCausalLM.from_pretrained(name);
  const inputs = (ids) => {
    const dims = [1, ids.length];
    const ints = (values) => new library.Tensor("int64", BigInt64Array.from(values, BigInt), dims);
    return { input_ids: ints(ids), attention_mask: ints(ids.map(() => 1)) };
  };
  return {
    version: library.env.version,
    encode: async (messages) => {
      const text = tokenizer.apply_chat_template(messages, { add_generation_prompt: true, tokenize: false });
      return tokenizer.encode(text, { add_special_tokens: false });
    },
    logits: async (ids) => (await model(inputs(ids))).logits,
    answer: async (ids, count) => {
      const found = await model.generate({ ...inputs(ids), max_new_tokens: count, do_sample: false });
      return found.tolist()[0].slice(ids.length).map(Number);
    },
  };
}
