import type { Logger } from "./log.ts";
import type { Service } from "./service.ts";
import { isAbort } from "./service.ts";

/**
 * Runs services until `signal` aborts or one of them ends. Stopping drains all in reverse order,
 * then aborts all, in reverse order, each once the later ones have ended. Rejects with the first
 * failure; a service that ends by itself, before it was asked to, is one.
 */
export async function runServices(
  services: readonly Service[],
  on: { signal: AbortSignal; log: Logger },
): Promise<void> {
  const stop = Promise.withResolvers<void>();
  let stopping = false;
  let failure: { error: unknown } | undefined;
  const fail = (error: unknown) => {
    failure ??= { error };
    stop.resolve();
  };
  const running = services.map((service) => {
    const controller = new AbortController();
    const ended = service.run(controller.signal).then(
      () => {
        if (!stopping) fail(new Error(`Service "${service.name}" ended before it was asked to`));
      },
      (thrown: unknown) => {
        if (isAbort(thrown, controller.signal)) return;
        on.log.error("service failed", { service: service.name, error: thrown });
        fail(thrown);
      },
    );
    return { service, controller, ended };
  });
  if (on.signal.aborted) stop.resolve();
  const onAbort = () => stop.resolve();
  on.signal.addEventListener("abort", onAbort, { once: true });
  await stop.promise;
  on.signal.removeEventListener("abort", onAbort);
  stopping = true;
  running.reverse();
  for (const { service } of running) {
    await service.drain?.().catch((thrown: unknown) => {
      on.log.warn("drain failed", { service: service.name, error: thrown });
    });
  }
  for (const { service, controller, ended } of running) {
    controller.abort(new DOMException("The service was stopped", "AbortError"));
    await ended;
    on.log.info("service stopped", { service: service.name });
  }
  if (failure !== undefined) throw failure.error;
}
