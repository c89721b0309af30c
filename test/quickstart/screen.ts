/** What the quickstart shows: steps with their time, commands with what they print. */
import { systemClock } from "@moorage/shared/clock";

const tty = process.stdout.isTTY === true;
const bold = (t: string) => (tty ? `\u001b[1m${t}\u001b[0m` : t);
const dim = (t: string) => (tty ? `\u001b[2m${t}\u001b[0m` : t);

/** Writes a heading. */
export function heading(text: string): void {
  console.log(`\n${bold(text)}`);
}

/** Writes one line. */
export function say(text: string): void {
  console.log(`  ${text}`);
}

/** A command as a person would type it, and what it printed. */
export function shown(command: string, output: string): void {
  console.log(`  ${bold("$")} ${command}`);
  for (const line of output.trimEnd().split("\n")) console.log(`    ${line}`);
}

/** Runs a step under its name and says how long it took. */
export async function step<T>(
  name: string,
  run: (progress: (text: string) => void) => Promise<T>,
): Promise<T> {
  const started = systemClock.monotonicMs();
  const seconds = () => `${((systemClock.monotonicMs() - started) / 1_000).toFixed(1)} s`;
  let last = "";
  const progress = (text: string) => {
    if (text === last) return;
    last = text;
    console.log(`    ${dim(`${seconds()}  ${text}`)}`);
  };
  console.log(`  ${name} …`);
  try {
    const result = await run(progress);
    console.log(`  ${name}: done in ${seconds()}`);
    return result;
  } catch (error) {
    console.log(`  ${name}: failed after ${seconds()}`);
    throw error;
  }
}
