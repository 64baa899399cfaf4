/** What `coracle` says of a settings file that it cannot use: `PATH:LINE: WHAT`, or what is wrong with a value, without a place. */
export function brokenAt(error: string, file: string): { line: string | null; message: string } {
  if (error.startsWith(`${file}:`)) {
    const match = /^(\d+): *([^]*)$/.exec(error.slice(file.length + 1));
    if (match) return { line: match[1] ?? null, message: match[2] ?? "" };
  }
  return { line: null, message: error };
}
