// As contract.py: a runtime {version, answer(ids, new, stops), logits(ids), encode(messages)} does the job.

// Returns {result, logits}: what result.json says, and a Float32Array of every position, or null.
export async function run(job, runtime) {
  const answers = [], encoded = [], rows = [];
  for (const prompt of job.prompts) {
    answers.push(await runtime.answer(prompt.ids, job.new, job.stops));
    encoded.push(await runtime.encode(prompt.messages));
    const { data, dims } = await runtime.logits([...prompt.ids, ...prompt.answer]);
    const everyPosition = dims[1] === prompt.ids.length + prompt.answer.length;
    rows.push(everyPosition ? Float32Array.from(data) : null);
  }
  const result = { version: runtime.version, answers, encoded: encoded.includes(null) ? null : encoded };
  return { result, logits: rows.includes(null) ? null : rows };
}
