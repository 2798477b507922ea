import { planDataset, runDataset, shardFormats, type DatasetEvent } from "mod.ts";
import { rmSync, readdirSync, mkdirSync, copyFileSync, writeFileSync } from "node:fs"; import { execFileSync } from "node:child_process";
import { Plan } from "./src/corpus/plan.ts"; import { Storage } from "./src/corpus/storage.ts";
const base="/tmp/core_p/k"; rmSync(base,{recursive:true,force:true}); mkdirSync(base+"/in/sub",{recursive:true});
for (let i=0;i<5;i++) copyFileSync(`/tmp/core_p/j256/p0000${i}.jpg`, `${base}/in/${i%2?"sub/":""}p${i}.v2.jpg`);
writeFileSync(base+"/in/p0.v2.txt","hello"); writeFileSync(base+"/in/bad.jpg","x");
copyFileSync("/work/wt/core/examples/media/cat.png", base+"/in/cat.png"); copyFileSync("/work/wt/core/examples/media/coffee.jpg", base+"/in/coffee.jpg");
async function go(name: string, o: any) {
  const out=`${base}/${name}`;
  try {
    await planDataset({out, ...o, onEvent: (e: DatasetEvent)=> (e.event==="refused"||e.event==="note") && console.log("   ", JSON.stringify(e))});
    const s=await runDataset(out);
    const plan=await Plan.open(out), storage=new Storage(out), format=shardFormats.get(plan.header.shardFormat)!;
    let n=0; const seen:string[]=[];
    for (let i=0;i<plan.numShards;i++) for await (const sample of format.read(out, await storage.entry(plan.stemOf(i)), plan.facts)) { n++; if(seen.length<2) seen.push(`${sample.key} ${sample.tokens.main.shape} ${sample.sidecars.map(x=>x.field)} ${JSON.stringify(sample.facts)}`); }
    console.log(name, s.isComplete, s.committed.numSamples, "read", n, s.quarantined.map(q=>`${q.key}:${q.code}`).join(" ").slice(0,300));
    if (n!==s.committed.numSamples) console.log("   MISMATCH"); 
    console.log("    ", seen.join("\n     "));
  } catch(e:any) { console.log(name, "ERROR", e.code, e.message.slice(0,300)); }
}
for (const format of shardFormats.keys()) { await go("img-"+format, {inputs:[base+"/in"], format, shardSize:3}); await go("imgsize-"+format, {inputs:[base+"/in"], format, shardSize:3, size:64}); }
await go("variants", {inputs:[base+"/in"], size: 64, crop:"random:3", crops:2, flip:true, bucket:false, shardSize: 5});
await go("bucket", {inputs:[base+"/in"], size: 128, bucket:true, shardSize: 5});
const v="/work/wt/core/examples/media/cars.mp4";
for (const format of shardFormats.keys()) await go("clip-"+format, {inputs:[v], format, model:"nano-DV4x8x8", size:64, clipFrames:17, shardSize:2});
await go("whole", {inputs:[v], model:"nano-DV4x8x8", size:64}); await go("stream", {inputs:[v], model:"nano-DV4x8x8", size:64, stream:true}); await go("clipstream", {inputs:[v], model:"nano-DV4x8x8", size:64, stream:true, clipFrames:20});
execFileSync("tar",["-cf",base+"/w.tar","-C",base+"/in","cat.png","coffee.jpg"]); await go("tar",{inputs:[base+"/w.tar"]});
writeFileSync(base+"/list.txt", base+"/in/cat.png\n"+base+"/in/none.png\n"); await go("list",{inputs:["@"+base+"/list.txt"]}); await go("glob",{inputs:[base+"/in/*.png"]});
await go("frames-folder",{inputs:[base+"/in/sub"], model:"nano-DV4x8x8", foldersAreVideos:true});
await go("ci", {inputs:[base+"/in"], model:"/work/wt/core/tests/fixtures/Cosmos-Tokenizer-CI8x8", size:64});
