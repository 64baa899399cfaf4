/** What the desktop is told. */
export const notifications = {
  died: (name: string) => `${name} died`,
  exited: (code: string) => `It ended with ${code}. Its logs may say why.`,
  outOfMemory: "It was killed because it used all the memory it may have.",
  unhealthy: (name: string) => `${name} is unhealthy`,
  unhealthyNext: "Its health check fails.",
  healthy: (name: string) => `${name} is healthy again`,
  healthyNext: "Its health check passes.",
};
