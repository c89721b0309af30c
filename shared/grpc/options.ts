import type { ChannelOptions } from "@grpc/grpc-js";
import { limits } from "../limits.ts";

/** What a port or a connection takes. Bytes, and streams a connection. */
export interface WireLimits {
  maxReceiveBytes: number;
  maxSendBytes: number;
  maxStreams: number;
  /** Protobuf elements of a message that a server receives; unbounded when absent. */
  maxElements?: number;
}

/** The hub's public API port. */
export const apiLimits: WireLimits = {
  maxReceiveBytes: limits.apiMessageBytes,
  maxSendBytes: limits.apiMessageBytes,
  maxStreams: limits.apiStreamsPerConnection,
  maxElements: limits.apiMessageElements,
};

/** The hub's agent and enrolment ports. */
export const agentPortLimits: WireLimits = {
  maxReceiveBytes: limits.agentToHubMessageBytes,
  maxSendBytes: limits.hubToAgentMessageBytes,
  maxStreams: limits.agentStreamsPerConnection,
  maxElements: limits.agentMessageElements,
};

/** The agent's end of the same wire. */
export const agentLimits: WireLimits = {
  maxReceiveBytes: limits.hubToAgentMessageBytes,
  maxSendBytes: limits.agentToHubMessageBytes,
  maxStreams: limits.agentStreamsPerConnection,
};

/**
 * The one options object of both ends. Dead peers are found in 40 s; channelz costs half of a
 * connect and is off; retries are the callers', who know what is idempotent; no proxy is taken from
 * the environment.
 */
export function channelOptions(l: WireLimits): ChannelOptions {
  return {
    "grpc.max_receive_message_length": l.maxReceiveBytes,
    "grpc.max_send_message_length": l.maxSendBytes,
    "grpc.max_concurrent_streams": l.maxStreams,
    "grpc.keepalive_time_ms": 30_000,
    "grpc.keepalive_timeout_ms": 10_000,
    "grpc.keepalive_permit_without_calls": 1,
    "grpc.enable_channelz": 0,
    "grpc.enable_retries": 0,
    "grpc.enable_http_proxy": 0,
    "grpc.service_config_disable_resolution": 1,
  };
}
