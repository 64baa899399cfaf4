import { describe, expect, test } from "vitest";
import { harmless, parse, plain } from "./ansi";

const texts = (line: string) => parse(line).spans.map(({ text }) => text);

describe("parse", () => {
  test("a line without sequences is one plain span", () => {
    expect(parse("hello").spans).toEqual([{ text: "hello", style: {} }]);
    expect(parse("").spans).toEqual([]);
  });

  test("colours of the palette, of 256 and of 24 bits", () => {
    const { spans } = parse("\x1b[31mred\x1b[92;1mgreen\x1b[0m \x1b[38;5;208mo\x1b[48;2;1;2;300mb");
    expect(spans).toEqual([
      { text: "red", style: { colour: 1 } },
      { text: "green", style: { colour: 10, bold: true } },
      { text: " ", style: {} },
      { text: "o", style: { colour: "rgb(255 135 0)" } },
      { text: "b", style: { colour: "rgb(255 135 0)", background: "rgb(1 2 255)" } },
    ]);
  });

  test("what is switched on lasts into the next line", () => {
    const { end } = parse("\x1b[33mwarn");
    expect(end).toEqual({ colour: 3 });
    expect(parse("still", end).spans).toEqual([{ text: "still", style: { colour: 3 } }]);
    expect(parse("\x1b[m", end).end).toEqual({});
  });

  test("other sequences are taken out, never obeyed", () => {
    expect(texts("\x1b[2J\x1b[Ha\x1b]0;title\x07b\x1b]8;;javascript:alert(1)\x1b\\c\x1b(Bd\x1bPq#0\x1b\\e").join("")).toBe("abcde");
  });

  test("an unfinished sequence at the end is not text", () => {
    expect(texts("end\x1b")).toEqual(["end"]);
    expect(texts("end\x1b]0;never closed")).toEqual(["end"]);
  });

  test("a progress bar shows its last state", () => {
    expect(texts("10 %\r50 %\r100 %")).toEqual(["100 %"]);
  });
});

test("plain text is what is shown", () => {
  expect(plain("\x1b[1;31mERROR\x1b[0m\tnow")).toBe("ERROR\tnow");
  expect(plain("no sequences")).toBe("no sequences");
});

test("control characters and direction overrides become visible", () => {
  expect(harmless("a\x00b\x07c\x7f")).toBe("a␀b␇c␡");
  expect(harmless("\u202Egnp.exe\u2066")).toBe("�gnp.exe�");
  expect(harmless("<b>é 漢 👩‍🚀</b>")).toBe("<b>é 漢 👩‍🚀</b>");
});
