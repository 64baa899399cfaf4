import { expect, it } from "vitest";
import { isProxy, withoutCredentials } from "./proxy";

it("a proxy is a URL with a host, of a scheme that is known", () => {
  for (const text of ["http://p.test:1", "p.test:3128", "socks5://[::1]:1080", "socks5h://p", "https://me:pw@p.test"]) expect(isProxy(text), text).toBe(true);
  for (const text of ["", "http://", "http://p:99999", "http:// /", "ftp://p.test", "socks5://", "javascript://p"]) expect(isProxy(text), text).toBe(false);
});

it("a password is not shown", () => {
  expect(withoutCredentials("http://me:p@ss@proxy.test:3128/")).toBe("http://…@proxy.test:3128/");
  expect(withoutCredentials("me:secret@proxy.test:3128")).toBe("…@proxy.test:3128");
  expect(withoutCredentials("http://proxy.test:3128")).toBe("http://proxy.test:3128");
});
