import * as api from "../../api/volumes";
import type { FileSource } from "../../components/FileBrowser.svelte";

/** The files of a volume, by the engine's own routes: no container is needed. */
export const filesOf = (name: string): FileSource => ({
  list: async (folder, _, signal) => ({ entries: await api.files(name, folder, signal), partial: false }),
  stat: (path) => api.stat(name, path),
  download: (path, folder, to) => api.download(name, path, folder ? "folder" : "file", to),
  upload: (folder, from) => api.upload(name, folder, from),
});
