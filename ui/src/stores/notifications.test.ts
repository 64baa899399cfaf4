import { expect, it } from "vitest";
import type { DockerEvent } from "../api/types";
import { Watcher } from "./notifications";

const ALL = { container_died: true, health_changed: true, update_ready: true };
const NONE = { container_died: false, health_changed: false, update_ready: false };
let at = 1_000_000;
const event = (Action: string, attributes: Record<string, string> = {}, minutes = 0): DockerEvent => {
  at += minutes * 60_000;
  return { Type: "container", Action, Actor: { ID: "c1", Attributes: { name: "web", ...attributes } }, time: Math.floor(at / 1000), timeNano: at * 1e6 };
};

it("a container that ends by itself with an error is told", () => {
  const watcher = new Watcher();
  expect(watcher.notice(event("die", { exitCode: "0" }), ALL)).toBeNull();
  expect(watcher.notice(event("die", { exitCode: "1" }), NONE)).toBeNull();
  expect(watcher.notice(event("die", { exitCode: "3" }), ALL)).toEqual({ title: "web died", body: expect.stringContaining("3") });
});

it("one that was stopped or killed is not, until it is started again", () => {
  const watcher = new Watcher();
  watcher.notice(event("kill", { signal: "15" }), ALL);
  expect(watcher.notice(event("die", { exitCode: "143" }), ALL)).toBeNull();
  watcher.notice(event("start"), ALL);
  expect(watcher.notice(event("die", { exitCode: "143" }), ALL)).not.toBeNull();
});

it("one that ran out of memory is told so", () => {
  const watcher = new Watcher();
  watcher.notice(event("oom"), ALL);
  expect(watcher.notice(event("die", { exitCode: "137" }), ALL)?.body).toContain("memory");
});

it("one that dies again and again is told now and then", () => {
  const watcher = new Watcher();
  const die = (minutes: number) => {
    watcher.notice(event("start"), ALL);
    return watcher.notice(event("die", { exitCode: "1" }, minutes), ALL);
  };
  expect([die(0), die(1), die(3), die(2)].map((notice) => notice !== null)).toEqual([true, false, false, true]);
});

it("health is told when it changes, not when it is as it should be", () => {
  const watcher = new Watcher();
  expect(watcher.notice(event("health_status: healthy"), ALL)).toBeNull();
  expect(watcher.notice(event("health_status: unhealthy"), ALL)?.title).toBe("web is unhealthy");
  expect(watcher.notice(event("health_status: healthy"), ALL)?.title).toBe("web is healthy again");
  expect(watcher.notice(event("health_status: unhealthy", {}, 1), NONE)).toBeNull();
});

it("what a name would have a desktop do is taken out", () => {
  const notice = new Watcher().notice(event("die", { exitCode: "1", name: "a\x1b[2Jb\u202E" }), ALL);
  expect(notice?.title).not.toMatch(/[\x00-\x1f\u202e]/);
});
