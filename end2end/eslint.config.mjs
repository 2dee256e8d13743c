import eslint from "@eslint/js";
import tseslint from "typescript-eslint";

export default tseslint.config(
  { ignores: ["test-results", "playwright-report"] },
  eslint.configs.recommended,
  tseslint.configs.strict,
  // Playwright reads its fixtures' names from the pattern, also from an empty one.
  {
    rules: { "no-empty-pattern": "off" },
    languageOptions: {
      globals: { console: "readonly", fetch: "readonly", process: "readonly", setTimeout: "readonly" },
    },
  },
);
