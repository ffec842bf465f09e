"""Sources and citations of an answer, as the AI SDK's pages show them. Pure (UI message stream, version 1)."""

from __future__ import annotations

from typing import Any

Chunk = dict[str, Any]


def sources_in_result(content: dict[str, Any]) -> list[Chunk]:
    """The pages that a search found or a fetch brought."""
    found = content.get("content")
    match content.get("type"):
        case "web_search_tool_result" if isinstance(found, list):
            return [_url(page["url"], page.get("title")) for page in found if isinstance(page, dict) and "url" in page]
        case "web_fetch_tool_result" if isinstance(found, dict) and isinstance(found.get("url"), str):
            document = found.get("content")
            return [_url(found["url"], document.get("title") if isinstance(document, dict) else None)]
    return []


def source_of_citation(citation: dict[str, Any]) -> Chunk | None:
    """Where a citation points, as a source of the message; None where the page cannot be told."""
    match citation:
        case {"type": "web_search_result_location", "url": str(url)}:
            return _url(url, citation.get("title"))
        case {"type": "search_result_location", "source": str(source)}:
            if source.startswith(("http://", "https://")):
                return _url(source, citation.get("title"))
            return _document(source, citation.get("title") or source, "text/plain")
        case {"document_index": int(index)}:
            paged = citation.get("type") == "page_location"
            title = citation.get("document_title") or f"Document {index + 1}"
            return _document(f"document-{index}", title, "application/pdf" if paged else "text/plain")
    return None


def _url(url: Any, title: Any) -> Chunk:
    source: Chunk = {"type": "source-url", "sourceId": str(url), "url": str(url)}
    return source | {"title": title} if isinstance(title, str) else source


def _document(source_id: str, title: Any, media_type: str) -> Chunk:
    return {"type": "source-document", "sourceId": source_id, "mediaType": media_type, "title": str(title)}


def citation_of(citation: dict[str, Any], source: Chunk) -> Chunk:
    """A citation as the page shows it beside the text."""
    kind = source["type"].removeprefix("source-")
    rest = {name: value for name, value in source.items() if name not in ("type", "sourceId")}
    told: Chunk = {"source": {"type": "source", "sourceType": kind, "id": source["sourceId"], **rest}}
    if isinstance(citation.get("cited_text"), str):
        told["citedText"] = citation["cited_text"]
    return told
