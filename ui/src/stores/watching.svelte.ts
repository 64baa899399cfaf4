/** Runs again whenever what it read has changed, as a template does: for tests, which have no template. */
export function effect(run: () => void): () => void {
  return $effect.root(() => {
    $effect(run);
  });
}
