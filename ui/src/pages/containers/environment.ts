export interface Variable {
  name: string;
  value: string;
}

/** In Docker a later setting of a name wins. */
export function variables(env: readonly string[] | null): Variable[] {
  const byName = new Map<string, string>();
  for (const setting of env ?? []) {
    const equals = setting.indexOf("=");
    if (equals < 0) byName.set(setting, "");
    else byName.set(setting.slice(0, equals), setting.slice(equals + 1));
  }
  return [...byName].map(([name, value]) => ({ name, value })).sort((a, b) => a.name.localeCompare(b.name));
}

/** Whether a name sounds as if its value were not for everybody who looks over a shoulder. */
export const soundsSecret = (name: string): boolean => /pass|secret|token|key|credential|auth|dsn|database_url/i.test(name);
