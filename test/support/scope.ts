/** What something started for a test goes with: a test, or a program that is like one. */
export interface Scope {
  teardown(handler: () => unknown): void;
}
