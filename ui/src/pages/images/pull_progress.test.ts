import { describe, expect, test } from "vitest";
import type { Progress } from "../../api/engine";
import { advance, cause, nothing, summary } from "./pull_progress";

const after = (...steps: Progress[]) => steps.reduce(advance, nothing);
const layer = (id: string, status: string, current?: number, total?: number): Progress => ({ id, status, progressDetail: current === undefined ? {} : { current, total } });

describe("a pull", () => {
  test("knows nothing before the first layer", () => {
    const begun = after({ status: "Pulling from library/nginx", id: "1.29" });
    expect(begun.layers).toEqual([]);
    expect(summary(begun).share).toBeNull();
    expect(begun.status).toBe("Pulling from library/nginx");
  });

  test("adds up the layers that are fetched, and leaves out those that are here", () => {
    const halfway = after(layer("aa", "Already exists"), layer("bb", "Pulling fs layer"), layer("cc", "Pulling fs layer"), layer("bb", "Downloading", 50, 100), layer("cc", "Downloading", 300, 300));
    expect(halfway.layers.map(({ id, state }) => [id, state])).toEqual([["aa", "present"], ["bb", "downloading"], ["cc", "downloading"]]);
    expect(summary(halfway)).toMatchObject({ done: 1, all: 3, fetched: 350, total: 400 });
  });

  test("has no total while a layer has not told its size", () => {
    expect(summary(after(layer("bb", "Pulling fs layer"), layer("cc", "Downloading", 10, 20)))).toMatchObject({ fetched: 10, total: null });
  });

  test("counts unpacking as the last fifth, and keeps the size that was fetched", () => {
    const fetched = after(layer("bb", "Downloading", 100, 100), layer("bb", "Download complete"));
    expect(summary(fetched).share).toBeCloseTo(0.8);
    // Docker's total of an extraction is that of the blob; some tell none.
    const unpacking = advance(fetched, layer("bb", "Extracting", 50, 100));
    expect(summary(unpacking).share).toBeCloseTo(0.9);
    expect(summary(unpacking)).toMatchObject({ fetched: 100, total: 100 });
    expect(summary(advance(unpacking, layer("bb", "Pull complete"))).share).toBe(1);
  });

  test("never goes back while a layer goes on", () => {
    const steps = [layer("bb", "Pulling fs layer"), layer("bb", "Downloading", 1, 100), layer("bb", "Downloading", 100, 100), layer("bb", "Verifying Checksum"), layer("bb", "Download complete"), layer("bb", "Extracting", 1, 100), layer("bb", "Extracting", 100, 100), layer("bb", "Pull complete")];
    let state = nothing;
    let last = 0;
    for (const step of steps) {
      state = advance(state, step);
      const { share } = summary(state);
      expect(share).toBeGreaterThanOrEqual(last);
      last = share ?? 0;
    }
    expect(last).toBe(1);
  });

  test("is whole when all was here", () => {
    const same = after(layer("aa", "Already exists"), { status: "Digest: sha256:0123" }, { status: "Status: Image is up to date for nginx:1.29" });
    expect(summary(same)).toMatchObject({ share: 1, done: 1, all: 1 });
    expect(same).toMatchObject({ upToDate: true, digest: "sha256:0123" });
  });

  test("waits again when Docker tries a layer anew", () => {
    expect(after(layer("bb", "Downloading", 60, 100), layer("bb", "Retrying in 5 seconds")).layers[0]).toMatchObject({ state: "waiting", size: 100 });
  });

  test("does not take what it does not know for a layer", () => {
    expect(after({ id: "bb", status: "Pondering" }).layers).toEqual([]);
  });
});

test.each([
  ["failed to copy: httpReadSeeker: failed open: read: connection reset by peer", "network"],
  ["dial tcp: lookup registry.example on 10.0.2.3:53: no such host", "network"],
  ["net/http: TLS handshake timeout", "network"],
  ["pull access denied for missing, repository does not exist or may require 'docker login'", "denied"],
  ["manifest for nginx:nope not found: manifest unknown", "other"],
  ["write /var/lib/coracle: no space left on device", "other"],
])("the cause of %s is %s", (message, expected) => {
  expect(cause(message)).toBe(expected);
});
