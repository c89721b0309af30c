import type { SecureServerOptions } from "node:http2";
import type { ChannelOptions } from "@grpc/grpc-js";
import { limits } from "../limits.ts";

const MiB = 1024 * 1024;

/** What a port or a connection takes. Bytes, and streams a connection. */
export interface WireLimits {
  maxReceiveBytes: number;
  maxSendBytes: number;
  maxStreams: number;
  /** Protobuf elements of a message that a server receives; unbounded when absent. */
  maxElements?: number;
  /** Memory of one connection's HTTP/2 session at a server; Node's own 10 MiB when absent. */
  sessionMemoryBytes?: number;
  /** A server ends a connection that carried no call for so long; never when absent. */
  idleMs?: number;
  /** When a silent connection is asked for a sign of life, and how long the answer may take. */
  keepalive?: { timeMs: number; timeoutMs: number };
}

/** The hub's public API port. */
export const apiLimits: WireLimits = {
  maxReceiveBytes: limits.apiMessageBytes,
  maxSendBytes: limits.apiMessageBytes,
  maxStreams: limits.apiStreamsPerConnection,
  maxElements: limits.apiMessageElements,
  sessionMemoryBytes: limits.apiSessionMemoryBytes,
  idleMs: limits.apiConnectionIdleMs,
};

/** The hub's agent port. */
export const agentPortLimits: WireLimits = {
  maxReceiveBytes: limits.agentToHubMessageBytes,
  maxSendBytes: limits.hubToAgentMessageBytes,
  maxStreams: limits.agentStreamsPerConnection,
  maxElements: limits.agentMessageElements,
  sessionMemoryBytes: limits.agentSessionMemoryBytes,
  idleMs: limits.agentConnectionIdleMs,
};

/** The hub's enrolment port: whoever calls it has shown nothing yet, so that it takes little. */
export const enrolmentPortLimits: WireLimits = {
  maxReceiveBytes: limits.enrolmentMessageBytes,
  maxSendBytes: limits.hubToAgentMessageBytes,
  maxStreams: limits.agentStreamsPerConnection,
  maxElements: limits.enrolmentMessageElements,
  sessionMemoryBytes: limits.agentSessionMemoryBytes,
  idleMs: limits.enrolmentConnectionIdleMs,
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
    "grpc.keepalive_time_ms": l.keepalive?.timeMs ?? limits.keepaliveMs,
    "grpc.keepalive_timeout_ms": l.keepalive?.timeoutMs ?? limits.keepaliveTimeoutMs,
    "grpc.keepalive_permit_without_calls": 1,
    "grpc.enable_channelz": 0,
    "grpc.enable_retries": 0,
    "grpc.enable_http_proxy": 0,
    "grpc.service_config_disable_resolution": 1,
    "grpc.initial_reconnect_backoff_ms": limits.reconnectMs,
    "grpc.max_reconnect_backoff_ms": limits.reconnectMaxMs,
    "grpc-node.max_session_memory": Math.ceil((l.sessionMemoryBytes ?? 10 * MiB) / MiB),
    ...(l.idleMs === undefined ? {} : { "grpc.max_connection_idle_ms": l.idleMs }),
  };
}

/**
 * HTTP/2 at a server, beyond what grpc-js takes as a channel option. The settings name all that the
 * peer is to keep, since those given here replace grpc-js's own. Node's bounds on resets
 * (CVE-2023-44487), rejected streams and broken frames are named, so that they stay.
 */
export function http2Options(l: WireLimits): SecureServerOptions {
  return {
    settings: { maxConcurrentStreams: l.maxStreams, maxHeaderListSize: limits.headerListBytes },
    maxHeaderListPairs: limits.headerPairs,
    maxSessionInvalidFrames: 100,
    maxSessionRejectedStreams: 100,
    streamResetBurst: limits.streamResetBurst,
    streamResetRate: limits.streamResetsPerSecond,
    handshakeTimeout: limits.handshakeMs,
  };
}
