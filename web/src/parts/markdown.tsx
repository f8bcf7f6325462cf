// Markdown as nodes of our own: no HTML of the text's, no images, links that show where they lead.

import { lexer, type Token, type Tokens } from "marked";
import type { ComponentChildren } from "preact";
import { visible } from "../lib/format.ts";

/** The formatted text. */
export function render(text: string): ComponentChildren {
  return blocks(lexer(text, { gfm: true }));
}

function blocks(tokens: readonly Token[]): ComponentChildren {
  return tokens.map((token, n) => <Block key={n} token={token} />);
}

function Block({ token }: { token: Token }): ComponentChildren {
  switch (token.type) {
    case "space":
      return null;
    case "heading":
      return <div class="heading">{inline(token.tokens)}</div>;
    case "paragraph":
      return <p>{inline(token.tokens)}</p>;
    case "blockquote":
      return <blockquote>{blocks(token.tokens ?? [])}</blockquote>;
    case "code":
      return <pre class="mono">{visible(token.text)}</pre>;
    case "hr":
      return <hr />;
    case "list": {
      const { ordered, items } = token as Tokens.List;
      const lines = items.map((item, n) => <li key={n}>{blocks(item.tokens)}</li>);
      return ordered ? <ol>{lines}</ol> : <ul>{lines}</ul>;
    }
    case "table": {
      const { header, rows } = token as Tokens.Table;
      return (
        <table>
          <thead>
            <tr>
              {header.map((cell, n) => (
                <th key={n}>{inline(cell.tokens)}</th>
              ))}
            </tr>
          </thead>
          <tbody>
            {rows.map((row, n) => (
              <tr key={n}>
                {row.map((cell, m) => (
                  <td key={m}>{inline(cell.tokens)}</td>
                ))}
              </tr>
            ))}
          </tbody>
        </table>
      );
    }
    case "text":
      return token.tokens ? <span>{inline(token.tokens)}</span> : visible(token.text);
    default:
      return visible(token.raw);
  }
}

function inline(tokens: readonly Token[] | undefined): ComponentChildren {
  return (tokens ?? []).map((token, n) => <Inline key={n} token={token} />);
}

function Inline({ token }: { token: Token }): ComponentChildren {
  switch (token.type) {
    case "strong":
      return <strong>{inline(token.tokens)}</strong>;
    case "em":
      return <em>{inline(token.tokens)}</em>;
    case "del":
      return <del>{inline(token.tokens)}</del>;
    case "codespan":
      return <code class="mono">{visible(token.text)}</code>;
    case "br":
      return <br />;
    case "link":
      return <Link address={token.href}>{inline(token.tokens)}</Link>;
    case "image":
      return <span class="label">image {visible(token.text || token.href)}</span>;
    case "text":
    case "escape":
      return visible(token.text);
    default:
      return visible(token.raw);
  }
}

/** A link to the web that says to which host; anything else is text. */
function Link({ address, children }: { address: string; children: ComponentChildren }) {
  const url = URL.canParse(address) ? new URL(address) : null;
  if (url?.protocol !== "https:" && url?.protocol !== "http:") return <>{children}</>;
  return (
    <>
      <a href={url.href} target="_blank" rel="noopener noreferrer">
        {children}
      </a>{" "}
      <span class="faint">({url.host})</span>
    </>
  );
}
