/** Cuts bytes into lines of text. */
export class Lines {
  #decoder = new TextDecoder();
  #rest = "";

  push(bytes: Uint8Array): string[] {
    const text = this.#decoder.decode(bytes, { stream: true });
    const parts = text.split("\n");
    const last = parts.pop() ?? "";
    if (parts.length === 0) {
      this.#rest += last;
      return [];
    }
    parts[0] = this.#rest + parts[0];
    this.#rest = last;
    return parts;
  }

  /** What came after the last line's end. */
  rest(): string {
    const rest = this.#rest + this.#decoder.decode();
    this.#rest = "";
    return rest;
  }
}
