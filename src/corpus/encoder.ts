/**
 * Opens a plan's model on this machine so that it computes what the plan says, or says why it cannot: other weights,
 * another precision or kernel set, other versions. Called by run.ts.
 */
import { expected } from "../errors.ts";
import type { OpenOptions } from "../model/options.ts";
import { optionFacts } from "../model/options.ts";
import { Tokenizer } from "../model/tokenizer.ts";
import type { Arithmetic, Plan } from "./plan.ts";
import { arithmeticOf } from "./planner.ts";

export interface OpenEncoder extends AsyncDisposable {
  readonly tokenizer: Tokenizer;
  readonly arithmetic: Arithmetic;
}

/** Opens the plan's model. Throws as Tokenizer.open; ARGUMENT for other weights; UNSUPPORTED for another arithmetic. */
export async function openEncoder(
  { header: { model, arithmetic, allowOtherArithmetic } }: Plan,
  o: Pick<OpenOptions, "device" | "threads" | "maxMemory" | "signal"> & { readonly model?: string | undefined },
  versions: Readonly<Record<string, string>>,
): Promise<OpenEncoder> {
  const { device = "auto", threads, maxMemory, signal } = o, at = o.model ?? model.at;
  const tokenizer = await Tokenizer.open(at, {
    half: "encoder",
    device,
    name: model.name,
    ...(!allowOtherArithmetic && { precision: arithmetic.precision, kernels: kernelsFor(arithmetic.kernels, device) }),
    ...(threads && { threads }),
    ...(maxMemory && { maxMemory }),
    ...(signal && { signal }),
  });
  try {
    const { info } = tokenizer, ours = arithmeticOf(info, versions);
    if (info.sha256 !== model.sha256) {
      throw expected(
        "model",
        `${model.name} with the weights that were planned (sha256 ${model.sha256})`,
        `${at} with ${info.sha256}`,
      );
    }
    const [here, planned] = differences(ours, arithmetic);
    if (!allowOtherArithmetic && here) {
      const wanted =
        `${planned}, as planned (unless the plan is made with allowOtherArithmetic, --allow-other-arithmetic)`;
      throw expected("arithmetic", wanted, here, "UNSUPPORTED");
    }
    return { tokenizer, arithmetic: ours, [Symbol.asyncDispose]: () => tokenizer.close() };
  } catch (error) {
    await tokenizer.close();
    throw error;
  }
}

/** The kernel set to open the model with: on the CPU the planned one; a GPU has one set only. */
function kernelsFor(planned: string, device: string): NonNullable<OpenOptions["kernels"]> {
  const known = optionFacts.kernels.choices.find((name) => name === planned);
  return known && !device.startsWith("cuda") ? known : "auto";
}

/** What two arithmetics differ in, as each has it: "kernels avx2, sharp 0.35.5"; empty texts where they are equal. */
function differences(a: Arithmetic, b: Arithmetic): [string, string] {
  const all = ({ precision, kernels, versions }: Arithmetic): Record<string, string> => ({
    precision,
    kernels,
    ...versions,
  });
  const [ours, theirs] = [all(a), all(b)], names = [...new Set([...Object.keys(ours), ...Object.keys(theirs)])];
  const different = names.filter((name) => ours[name] !== theirs[name]);
  const told = (of: Record<string, string>) => different.map((name) => `${name} ${of[name] ?? "none"}`).join(", ");
  return [told(ours), told(theirs)];
}
