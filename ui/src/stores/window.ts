import { createSubscriber } from "svelte/reactivity";

const subscribe = createSubscriber((changed) => {
  document.addEventListener("visibilitychange", changed);
  return () => document.removeEventListener("visibilitychange", changed);
});

/** Whether somebody can see the window: what is measured for the eye alone rests while nobody can. */
export function windowVisible(): boolean {
  subscribe();
  return document.visibilityState === "visible";
}

let now = Date.now();
const subscribeMinute = createSubscriber((changed) => {
  now = Date.now();
  const timer = setInterval(() => {
    now = Date.now();
    changed();
  }, 30_000);
  return () => clearInterval(timer);
});

/** The time, told twice a minute: for "3 minutes ago". */
export function minute(): number {
  subscribeMinute();
  return now;
}
