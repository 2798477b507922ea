/**
 * Work that waits for others, such as a store or a disk, done a few pieces at a time. Called by s3/, s3storage.ts and
 * status.ts.
 */

/**
 * Runs `count` pieces of work, started in order, a few at a time. The first failure ends all; it is thrown once the
 * work under way has ended.
 */
export async function fewAtOnce<T>(count: number, work: (i: number) => Promise<T>, atOnce = 4): Promise<T[]> {
  const results = new Array<T>(count);
  let next = 0, isFailed = false;
  const lane = async () => {
    while (next < count && !isFailed) {
      const i = next++;
      try {
        results[i] = await work(i);
      } catch (error) {
        isFailed = true;
        throw error;
      }
    }
  };
  const lanes = await Promise.allSettled(Array.from({ length: Math.min(count, atOnce) }, lane));
  const failed = lanes.find((lane) => lane.status === "rejected");
  if (failed) throw failed.reason;
  return results;
}
