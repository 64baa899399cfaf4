import { en } from "./en";

/** Every word that the app says. Another language is another object of this shape. */
export type Text = typeof en;

export const text: Text = en;
export * from "./format";
