/** Proxies as the user names them. Mirrors `crates/coracle/src/machine/proxy.rs`. */

/** Says that there is to be no proxy, whatever the environment says. */
export const NONE = "none";
export const SCHEMES = ["http", "https", "socks5", "socks5h"];

/** `http://HOST:PORT`, or without a scheme, as proxies are often named. */
export function isProxy(text: string): boolean {
  const url = parse(text);
  return url !== null && url.host !== "" && SCHEMES.includes(url.protocol.slice(0, -1));
}

function parse(text: string): URL | null {
  try {
    return new URL(text.includes("://") ? text : `http://${text}`);
  } catch {
    return null;
  }
}

/** Whether a password or a name stands in it. */
export const hasCredentials = (text: string): boolean => /:\/\/.*@/.test(text) || (!text.includes("://") && text.includes("@"));

/** To be shown: without the name and password. */
export const withoutCredentials = (text: string): string => (hasCredentials(text) ? text.replace(/^([^/]*:\/\/)?.*@/, "$1…@") : text);
