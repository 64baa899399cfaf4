/** A server in memory: routes, answers and connections, as much of HTTP as Docker's API needs. */
import { BackendError, EngineError, type EngineAnswer, type EngineRequest, type EngineStream, type StreamListener } from "../backend";

export interface FakeRequest {
  /** What stood for `:name` in the route, decoded. */
  params: Record<string, string>;
  query: URLSearchParams;
  body: string | Uint8Array;
  /** The body as JSON. */
  json<T>(): T;
}

/** Writes an answer that takes time. What it returns hears the client. */
export type Conversation = (out: { data(bytes: Uint8Array | string): void; end(error?: BackendError): void }) => {
  write?(bytes: Uint8Array): void;
  close?(): void;
} | void;

export interface Reply {
  status?: number;
  headers?: Record<string, string>;
  json?: unknown;
  bytes?: Uint8Array;
  stream?: Conversation;
}

type Handler = (request: FakeRequest) => Reply | Promise<Reply>;

/** Docker's way to refuse. */
export class Refused extends Error {
  constructor(
    readonly status: number,
    message: string,
  ) {
    super(message);
  }
}

const utf8 = new TextEncoder();
const bytesOf = (data: Uint8Array | string): Uint8Array => (typeof data === "string" ? utf8.encode(data) : data);

export class Router {
  #routes: { method: string; pattern: RegExp; names: string[]; handler: Handler }[] = [];

  /** `on("GET", "/containers/:id/json", …)`; `:name+` takes slashes, too. */
  on(method: EngineRequest["method"], path: string, handler: Handler): this {
    const names: string[] = [];
    const pattern = path.replace(/:(\w+)(\+?)/g, (_, name: string, deep: string) => {
      names.push(name);
      return deep ? "(.+)" : "([^/]+)";
    });
    this.#routes.push({ method, pattern: new RegExp(`^${pattern}$`), names, handler });
    return this;
  }

  async answer(request: EngineRequest): Promise<EngineAnswer> {
    const reply = await this.#reply(request);
    const { stream } = reply;
    if (!stream) return { status: reply.status ?? 200, headers: reply.headers ?? {}, body: reply.bytes ?? new Uint8Array(0) };
    const chunks: Uint8Array[] = [];
    await new Promise<void>((resolve, reject) => {
      stream({ data: (data) => chunks.push(bytesOf(data)), end: (error) => (error ? reject(error) : resolve()) });
    });
    return { status: reply.status ?? 200, headers: reply.headers ?? {}, body: new Uint8Array(await new Blob(chunks as BlobPart[]).arrayBuffer()) };
  }

  async open(request: EngineRequest, listener: StreamListener, opened: (stop: (error: BackendError) => void) => () => void): Promise<EngineStream> {
    const reply = await this.#reply(request);
    const status = reply.status ?? 200;
    if (status >= 400) throw new EngineError(status, (JSON.parse(new TextDecoder().decode(reply.bytes)) as { message: string }).message);
    let over = false;
    const forget = opened((error) => end(error));
    const end = (error?: BackendError) => {
      if (over) return;
      over = true;
      forget();
      side?.close?.();
      listener.end(error);
    };
    const conversation: Conversation =
      reply.stream ??
      ((out) => {
        if (reply.bytes) out.data(reply.bytes);
        out.end();
      });
    let side: ReturnType<Conversation>;
    // After the caller has the stream in hand.
    setTimeout(() => {
      if (!over) side = conversation({ data: (data) => over || listener.data(bytesOf(data)), end });
    }, 0);
    return {
      status,
      headers: reply.headers ?? {},
      write: async (bytes) => {
        if (over) throw new BackendError("engine_unreachable", "The connection is closed");
        side?.write?.(bytes);
      },
      finish: async () => undefined,
      close: () => {
        if (over) return;
        over = true;
        forget();
        side?.close?.();
      },
    };
  }

  async #reply(request: EngineRequest): Promise<Reply> {
    const [path = "", query = ""] = request.path.split("?", 2);
    for (const route of this.#routes) {
      const match = route.method === request.method ? route.pattern.exec(path) : null;
      if (!match) continue;
      const params: Record<string, string> = {};
      route.names.forEach((name, index) => (params[name] = decodeURIComponent(match[index + 1] ?? "")));
      const body = request.body ?? "";
      try {
        const reply = await route.handler({
          params,
          query: new URLSearchParams(query),
          body,
          json: <T>() => JSON.parse(typeof body === "string" ? body || "{}" : new TextDecoder().decode(body)) as T,
        });
        if (reply.json !== undefined) return { ...reply, bytes: utf8.encode(JSON.stringify(reply.json)) };
        return reply;
      } catch (error) {
        if (error instanceof Refused) return { status: error.status, bytes: utf8.encode(JSON.stringify({ message: error.message })) };
        throw error;
      }
    }
    return { status: 404, bytes: utf8.encode(JSON.stringify({ message: "page not found" })) };
  }
}
