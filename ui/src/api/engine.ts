/** Calls of Docker's API, whatever the endpoint. A refusal (400 and above) becomes an {@link EngineError}. */
import { BackendError, EngineError, type EngineAnswer, type EngineRequest, type EngineStream } from "../backend/backend";
import { backend } from "../backend/current";
import { Lines } from "./lines";

type Method = EngineRequest["method"];
type Query = Record<string, string | number | boolean | undefined | Record<string, string[]>>;

/** A path whose inserted parts are encoded: at`/containers/${id}/json`. */
export function at(parts: TemplateStringsArray, ...values: string[]): string {
  return parts.reduce((path, part, index) => path + encodeURIComponent(values[index - 1] ?? "") + part);
}

/** Appends a query; objects (Docker's `filters`) are sent as JSON, what is undefined or false is not sent. */
export function withQuery(path: string, query: Query): string {
  const pairs = new URLSearchParams();
  for (const [key, value] of Object.entries(query)) {
    if (value === undefined || value === false) continue;
    pairs.set(key, value === true ? "1" : typeof value === "object" ? JSON.stringify(value) : String(value));
  }
  const text = pairs.toString();
  return text === "" ? path : `${path}?${text}`;
}

export interface CallOptions {
  query?: Query;
  /** Sent as JSON. */
  json?: unknown;
  signal?: AbortSignal;
}

function request(method: Method, path: string, { query, json }: CallOptions): EngineRequest {
  const whole: EngineRequest = { method, path: query ? withQuery(path, query) : path };
  if (json !== undefined) whole.body = JSON.stringify(json);
  return whole;
}

const utf8 = new TextDecoder();

/** What Docker says in `{"message": …}`, or the text as it came. */
function refusal(answer: EngineAnswer): EngineError {
  const text = utf8.decode(answer.body);
  let message = text.trim() || `The engine answered with status ${answer.status}`;
  try {
    const parsed: unknown = JSON.parse(text);
    if (typeof parsed === "object" && parsed !== null && "message" in parsed) message = String(parsed.message);
  } catch {
    // Not JSON: shown as it is.
  }
  return new EngineError(answer.status, message);
}

/** The text of an answer that was not asked for through {@link call}, unless it is a refusal. */
export function accepted(answer: EngineAnswer): string {
  if (answer.status >= 400) throw refusal(answer);
  return utf8.decode(answer.body);
}

/** One call, answered whole. */
export async function call(method: Method, path: string, options: CallOptions = {}): Promise<EngineAnswer> {
  const answer = await backend.engine(request(method, path, options), options.signal);
  if (answer.status >= 400) throw refusal(answer);
  return answer;
}

/** One call whose answer is JSON. */
export async function callJson<T>(method: Method, path: string, options: CallOptions = {}): Promise<T> {
  const answer = await call(method, path, options);
  try {
    return JSON.parse(utf8.decode(answer.body)) as T;
  } catch (error) {
    throw new BackendError("engine", `The engine's answer to ${method} ${path} is not JSON: ${String(error)}`);
  }
}

/**
 * A call whose answer is a JSON object a line, for as long as it lasts (events, stats, pull).
 * `end` comes once, unless the stream is closed by us.
 */
export async function streamJson<T>(
  method: Method,
  path: string,
  options: CallOptions,
  listener: { value(value: T): void; end(error?: BackendError): void },
): Promise<EngineStream> {
  const lines = new Lines();
  return backend.engineStream(request(method, path, options), {
    data(bytes) {
      for (const line of lines.push(bytes)) {
        if (line.trim() !== "") listener.value(JSON.parse(line) as T);
      }
    },
    end: (error) => listener.end(error),
  });
}

/** Progress of a pull, push, build or load: one object a line, the last of which may be an error. */
export interface Progress {
  id?: string;
  status?: string;
  stream?: string;
  progressDetail?: { current?: number; total?: number };
  errorDetail?: { message: string };
  error?: string;
  aux?: unknown;
}

/** A call that tells its progress; resolves at its end, rejects with the error it ended in. */
export function callWithProgress(method: Method, path: string, options: CallOptions, progress: (step: Progress) => void): Promise<void> {
  return new Promise((resolve, reject) => {
    let failed: BackendError | undefined;
    const opened = streamJson<Progress>(method, path, options, {
      value(step) {
        if (step.error !== undefined) failed = new BackendError("engine", step.errorDetail?.message ?? step.error);
        else progress(step);
      },
      end: (error) => (error ?? failed ? reject(error ?? failed) : resolve()),
    });
    opened.catch(reject);
    options.signal?.addEventListener("abort", () => {
      opened.then((stream) => stream.close(), reject);
      reject(new BackendError("cancelled", "Cancelled"));
    });
  });
}
