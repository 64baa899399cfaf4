/** Where the user is: the part of the address after `#/`, in its segments. */
class Route {
  segments: string[] = $state.raw([]);

  constructor() {
    if (typeof window === "undefined") return;
    this.#read();
    window.addEventListener("hashchange", () => this.#read());
  }

  /** The page's name. */
  get page(): string {
    return this.segments[0] ?? "";
  }

  #read(): void {
    const path = location.hash.replace(/^#\/?/, "");
    this.segments = path === "" ? [] : path.split("/").map(decoded);
  }
}

function decoded(segment: string): string {
  try {
    return decodeURIComponent(segment);
  } catch {
    return segment;
  }
}

export const route = new Route();

/** The address of a place in the app. */
export const href = (...segments: string[]): string => `#/${segments.map(encodeURIComponent).join("/")}`;

export function go(...segments: string[]): void {
  location.hash = href(...segments);
}
