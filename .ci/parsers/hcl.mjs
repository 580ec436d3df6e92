// Parses the Terraform modules and the image's template, and compares what the module opens with
// what the mesh needs. Run by .ci/check-packaging, from the checkout.
import { parse } from "@cdktf/hcl2json";
import { readFileSync, readdirSync } from "node:fs";
import { join } from "node:path";

const complaints = [];
const expect = (right, complaint) => right || complaints.push(complaint);

// All files of a module as one text, and as what they mean.
async function hcl(directory, ending) {
  const files = readdirSync(directory).filter((name) => name.endsWith(ending));
  expect(files.length > 0, `${directory} has no ${ending}`);
  const module = { text: "", blocks: {} };
  for (const name of files) {
    const text = readFileSync(join(directory, name), "utf8");
    module.text += text;
    for (const [kind, value] of Object.entries(await parse(name, text))) {
      const known = module.blocks[kind];
      module.blocks[kind] = Array.isArray(value) ? [...(known ?? []), ...value] : { ...known, ...value };
    }
  }
  return module;
}

// A variable that nobody declares, or that nobody uses, is a mistake.
function variables(directory, { text, blocks }) {
  const declared = Object.keys(blocks.variable ?? {});
  const used = [...text.replaceAll(/#.*/g, "").matchAll(/\bvar\.(\w+)/g)].map((match) => match[1]);
  for (const name of used) expect(declared.includes(name), `${directory}: var.${name} is not declared`);
  // A variable's own validation names it as well.
  for (const name of declared) {
    const own = JSON.stringify(blocks.variable[name]).split(`var.${name}`).length - 1;
    const all = used.filter((other) => other === name).length;
    expect(all > own || own === 0 && all > 0, `${directory}: var.${name} is used by nobody`);
  }
}

const vultr = await hcl("packaging/terraform/vultr", ".tf");
const userData = await hcl("packaging/terraform/user-data", ".tf");
const image = await hcl("packaging/image", ".pkr.hcl");
for (const [directory, module] of [["vultr", vultr], ["user-data", userData], ["image", image]])
  variables(directory, module);

const handed = Object.keys(vultr.blocks.module.user_data[0]).filter((name) => name !== "source").sort();
const taken = Object.keys(userData.blocks.variable).sort();
expect(`${handed}` === `${taken}`, `the module hands over ${handed}, user-data takes ${taken}`);

// README names the ports; the firewall opens these and no others.
const locals = Object.assign({}, ...vultr.blocks.locals);
const between = Object.values(locals.mesh_ports).map(({ port, protocol }) => `${port}/${protocol}`);
expect(`${between.sort()}` === "5432/tcp,7432/tcp,7432/udp", `between nodes: ${between}`);
const outside = [...JSON.stringify(locals.from_outside).matchAll(/port = \\"(\d+)\\"/g)].map((match) => match[1]);
expect(`${outside.sort()}` === "22,5432", `from outside: ${outside}`);
const rules = Object.keys(vultr.blocks.resource.vultr_firewall_rule).sort();
expect(`${rules}` === "between_nodes,from_outside", `firewall rules: ${rules}`);
const readme = readFileSync("README.md", "utf8");
for (const port of between) expect(readme.includes(port), `README doesn't name ${port}`);
expect(JSON.stringify(vultr.blocks.output.status).includes("pgaa-agent status"), "no ssh line for status");

const seals = JSON.stringify(image.blocks.build);
for (const step of ["cloud-init clean", "pgaa-agent image check"])
  expect(seals.includes(step), `the image is baked without ${step}`);

for (const complaint of complaints) console.error(complaint);
console.log(`Terraform and image template: ${complaints.length} complaints`);
process.exit(complaints.length > 0 ? 1 : 0);
