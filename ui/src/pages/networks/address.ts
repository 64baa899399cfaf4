/** Internet addresses and subnets, of version 4 and 6, as text and as numbers. */

export interface Address {
  family: 4 | 6;
  value: bigint;
}

export interface Subnet extends Address {
  prefix: number;
}

const BITS = { 4: 32, 6: 128 } as const;

function parse4(text: string): bigint | null {
  const parts = text.split(".");
  if (parts.length !== 4) return null;
  let value = 0n;
  for (const part of parts) {
    // A leading zero would be octal to some readers.
    if (!/^(0|[1-9]\d{0,2})$/.test(part) || Number(part) > 255) return null;
    value = (value << 8n) | BigInt(part);
  }
  return value;
}

/** RFC 4291, 2.2: eight groups, one run of which may be left out, the last two of which may be written as of version 4. */
function parse6(text: string): bigint | null {
  let rest = text;
  let tail: string[] = [];
  if (rest.includes(".")) {
    const colon = rest.lastIndexOf(":");
    const last = parse4(rest.slice(colon + 1));
    if (colon < 0 || last === null) return null;
    tail = [(last >> 16n).toString(16), (last & 0xffffn).toString(16)];
    rest = rest.slice(0, colon);
    // `::1.2.3.4`: the second colon belonged to what was left out.
    if (rest.endsWith(":")) rest += ":";
  }
  const sides = rest.split("::");
  if (sides.length > 2) return null;
  const groups = (side: string | undefined) => (side === undefined || side === "" ? [] : side.split(":"));
  const before = groups(sides[0]);
  const after = [...groups(sides[1]), ...tail];
  const missing = 8 - before.length - after.length;
  if (sides.length === 1 ? missing !== 0 : missing < 1) return null;
  let value = 0n;
  for (const group of [...before, ...Array<string>(missing).fill("0"), ...after]) {
    if (!/^[0-9a-f]{1,4}$/i.test(group)) return null;
    value = (value << 16n) | BigInt(`0x${group}`);
  }
  return value;
}

export function parseAddress(text: string): Address | null {
  const four = parse4(text);
  if (four !== null) return { family: 4, value: four };
  const six = text.includes(":") ? parse6(text) : null;
  return six === null ? null : { family: 6, value: six };
}

/** As people write it; RFC 5952 for version 6. */
export function format({ family, value }: Address): string {
  if (family === 4) return [24n, 16n, 8n, 0n].map((shift) => (value >> shift) & 255n).join(".");
  const groups = Array.from({ length: 8 }, (_, index) => (value >> BigInt(112 - 16 * index)) & 0xffffn);
  let best = { at: 0, length: 0 };
  for (let at = 0; at < 8; at++) {
    let length = 0;
    while (at + length < 8 && groups[at + length] === 0n) length++;
    if (length > best.length) best = { at, length };
  }
  const hex = (some: bigint[]) => some.map((group) => group.toString(16)).join(":");
  if (best.length < 2) return hex(groups);
  return `${hex(groups.slice(0, best.at))}::${hex(groups.slice(best.at + best.length))}`;
}

/** The first address of the subnet that holds this one. */
function first({ family, value }: Address, prefix: number): bigint {
  const free = BigInt(BITS[family] - prefix);
  return (value >> free) << free;
}

/** `10.7.0.0/24`. What is not its own first address is given as it was written: {@link isAligned} tells. */
export function parseSubnet(text: string): Subnet | null {
  const match = /^([^/]+)\/(\d{1,3})$/.exec(text);
  const address = match ? parseAddress(match[1] ?? "") : null;
  if (!address) return null;
  const prefix = Number(match?.[2]);
  return prefix > BITS[address.family] ? null : { ...address, prefix };
}

export const isAligned = (subnet: Subnet): boolean => first(subnet, subnet.prefix) === subnet.value;
/** The subnet that was meant by an address in it. */
export const aligned = (subnet: Subnet): Subnet => ({ ...subnet, value: first(subnet, subnet.prefix) });
export const formatSubnet = (subnet: Subnet): string => `${format(subnet)}/${subnet.prefix}`;

export const contains = (subnet: Subnet, address: Address): boolean =>
  subnet.family === address.family && first(address, subnet.prefix) === first(subnet, subnet.prefix);

export const overlaps = (a: Subnet, b: Subnet): boolean => (a.prefix <= b.prefix ? contains(a, b) : contains(b, a));
