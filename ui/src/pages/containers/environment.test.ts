import { expect, test } from "vitest";
import { soundsSecret, variables } from "./environment";

test("sorted, the last setting of a name wins, values may have equals signs", () => {
  expect(variables(["B=1", "A=x=y", "B=2", "EMPTY"])).toEqual([
    { name: "A", value: "x=y" },
    { name: "B", value: "2" },
    { name: "EMPTY", value: "" },
  ]);
  expect(variables(null)).toEqual([]);
});

test("names that sound secret", () => {
  expect(["POSTGRES_PASSWORD", "API_TOKEN", "DATABASE_URL", "AWS_SECRET_ACCESS_KEY"].every(soundsSecret)).toBe(true);
  expect(["PATH", "LOG_LEVEL", "PORT"].some(soundsSecret)).toBe(false);
});
