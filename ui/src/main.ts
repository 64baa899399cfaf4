import { mount } from "svelte";
import App from "./App.svelte";
import "./app.css";
import { setBackend } from "./backend/current";

// The first half is a constant when this is built for the shell: the fake is then not even in the bundle.
if (import.meta.env.MODE === "production" || "__TAURI_INTERNALS__" in window) {
  const { tauri } = await import("./backend/tauri");
  setBackend(tauri);
} else {
  const { fake } = await import("./backend/fake/fake");
  setBackend(fake(new URLSearchParams(location.search)));
}

mount(App, { target: document.getElementById("app") ?? document.body });
