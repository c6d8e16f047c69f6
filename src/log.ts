/** Where a worker process writes what people should know. */
export interface Log {
  info(message: string): void;
  warn(message: string): void;
  error(message: string): void;
}
