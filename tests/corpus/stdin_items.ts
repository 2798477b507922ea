/** Prints the keys, or refusals, of a list on standard input; sources.test.ts runs it. */
import { findItems } from "../../src/corpus/sources/find.ts";

for await (const found of findItems(["-"], { kind: "image" })) {
  console.log("item" in found ? found.item.key : `${found.refused.name}: ${found.refused.reason}`);
}
