import { systemClock } from "@moorage/shared/clock";
import { seededRng } from "@moorage/shared/rng";
import { kubeClientSuite } from "./client.conformance.ts";
import { createMemoryCluster } from "./memory-cluster.ts";

kubeClientSuite(
  "the in-memory cluster",
  () => {
    const client = createMemoryCluster({ clock: systemClock, rng: seededRng(1) }).client();
    return Promise.resolve({ client, close: () => client.close() });
  },
  "conformance",
);
