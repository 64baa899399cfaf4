import { expect, test } from "vitest";
import { parse, shown, split } from "./names";

const DIGEST = `sha256:${"0".repeat(64)}`;

test.each([
  ["nginx", "nginx:latest"],
  [" nginx:1.29 ", "nginx:1.29"],
  ["docker pull nginx:1.29", "nginx:1.29"],
  ["library/nginx", "library/nginx:latest"],
  ["localhost:5000/team/app", "localhost:5000/team/app:latest"],
  ["ghcr.io/harbour/tide-tables:2026.11", "ghcr.io/harbour/tide-tables:2026.11"],
  [`nginx@${DIGEST}`, `nginx@${DIGEST}`],
  [`nginx:1.29@${DIGEST}`, `nginx:1.29@${DIGEST}`],
])("%s is %s", (typed, name) => {
  const parsed = parse(typed);
  expect(parsed && shown(parsed)).toBe(name);
});

test.each(["", "NGINX", "nginx:", "nginx:-1", "my image", "a//b", "nginx@sha256:12", "<img>:x", "../up", `x:${"t".repeat(129)}`])("%s is no name", (typed) => {
  expect(parse(typed)).toBeNull();
});

test("the colon of a port is no tag's", () => {
  expect(split("localhost:5000/app")).toEqual({ repository: "localhost:5000/app", tag: null, digest: null });
});
