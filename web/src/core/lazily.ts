import { PageError } from "./errors";

/** Load a part of the page that few images need. */
export async function lazily<Part>(load: () => Promise<Part>): Promise<Part> {
  try {
    return await load();
  } catch {
    throw new PageError("a part of the page cannot be loaded; check that 'msformer-deploy web' still runs, and load the page again");
  }
}
