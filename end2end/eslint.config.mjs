import eslint from "@eslint/js";
import tseslint from "typescript-eslint";

export default tseslint.config(
  { ignores: ["test-results", "playwright-report"] },
  eslint.configs.recommended,
  tseslint.configs.strict,
  // Playwright reads the names of the required fixtures from the pattern, which may be empty.
  {
    rules: { "no-empty-pattern": "off" },
    languageOptions: {
      globals: { console: "readonly", fetch: "readonly", process: "readonly", setTimeout: "readonly" },
    },
  },
);
