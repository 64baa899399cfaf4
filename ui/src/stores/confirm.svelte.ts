/** Asks before something is lost. One question at a time, answered by `components/ConfirmDialog.svelte`. */

export interface Question {
  title: string;
  /** What is lost, one thing a line. */
  lost: string[];
  /** What stays, or how to get it back. */
  kept?: string;
  /** On the button: a verb and its object. */
  action: string;
  /** A choice that changes what is lost. */
  option?: { label: string; chosen: boolean };
}

export interface Answer {
  option: boolean;
}

class Confirm {
  question: Question | null = $state.raw(null);
  #answer: ((answer: Answer | null) => void) | null = null;

  /** Null if the user changed their mind. */
  ask(question: Question): Promise<Answer | null> {
    this.#answer?.(null);
    this.question = question;
    return new Promise((resolve) => (this.#answer = resolve));
  }

  answer(answer: Answer | null): void {
    this.question = null;
    this.#answer?.(answer);
    this.#answer = null;
  }
}

const confirm = new Confirm();
export { confirm };
export const ask = (question: Question): Promise<Answer | null> => confirm.ask(question);
