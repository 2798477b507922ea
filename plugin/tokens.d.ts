/**
 * Types of what ctok/plugin imports. In a project: /// <reference types="ctok/tokens" />, or "types": ["ctok/tokens"]
 * in its tsconfig.json.
 */
declare module "*?tokens" {
  const tokens: import("ctok").Tokens;
  export default tokens;
}

// A wildcard stands once in a name, so each embedded model that a query can name has a line.
declare module "*?tokens=nano-DI8x8" {
  const tokens: import("ctok").Tokens;
  export default tokens;
}

declare module "*?tokens=nano-DV4x8x8" {
  const tokens: import("ctok").Tokens;
  export default tokens;
}

declare module "*.tokens.safetensors" {
  const tokens: import("ctok").Tokens;
  export default tokens;
}

declare module "*.tokens.msgpack" {
  const tokens: import("ctok").Tokens;
  export default tokens;
}
