// Calls the front end with the official client and prints what it saw as one JSON object.
import OpenAI from "openai";

const { BASE_URL: baseURL, API_KEY: apiKey, MODEL: model } = process.env;
const client = new OpenAI({ baseURL, apiKey, maxRetries: 0 });
const messages = [
  { role: "user", content: "What is the capital of France? Answer in one sentence." },
];

async function refusal(call) {
  try {
    await call();
  } catch (error) {
    const { status, param, code, type } = error;
    return { status, param, code, type };
  }
  throw new Error("was not refused");
}

const streamed = { text: "", chunks: 0, finish_reason: null };
const stream = await client.chat.completions.create({
  model,
  messages,
  temperature: 0,
  stream: true,
});
for await (const chunk of stream) {
  streamed.chunks += 1;
  streamed.text += chunk.choices[0].delta.content ?? "";
  streamed.finish_reason ??= chunk.choices[0].finish_reason;
}

const answer = await client.chat.completions.create({ model, messages, temperature: 0 });
const models = [];
for await (const each of client.models.list()) models.push(each.id);

const findings = {
  streamed,
  whole: {
    text: answer.choices[0].message.content,
    completion_tokens: answer.usage.completion_tokens,
  },
  models,
  bad_request: await refusal(() =>
    client.chat.completions.create({ model, messages, top_p: 7 }),
  ),
  wrong_key: await refusal(() =>
    new OpenAI({ baseURL, apiKey: "evf_wrong", maxRetries: 0 }).models.list(),
  ),
  unknown_model: await refusal(() =>
    client.chat.completions.create({ model: "gpt-none", messages, stream: true }),
  ),
};
process.stdout.write(JSON.stringify(findings));
